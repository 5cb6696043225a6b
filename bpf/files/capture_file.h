/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A capture file or a pipe of either format, packet by packet, whatever mix of interfaces it holds. */
#ifndef WIRESPAN_CAPTURE_FILE_H
#define WIRESPAN_CAPTURE_FILE_H

#include "pcap.h"
#include "pcapng.h"

static void capture_close(struct capture_file *file)
{
    stream_close(&file->stream);
    free(file->interfaces);
    file->interfaces = NULL;
    file->interface_count = 0;
    file->interface_room = 0;
}

/* Begin with a stream. Returns 0, or -1 and a fault for what is no capture. */
static int capture_begin(struct capture_file *file)
{
    const __u8 *bytes = stream_next(&file->stream, 4);
    __u32 magic;

    if (!bytes) {
        if (file->stream.error)
            capture_fault(file, "cannot be read: %s", strerror(file->stream.error));
        else
            capture_fault(file, stream_has_rest(&file->stream) ? "neither pcap nor pcapng" : "empty");
        return -1;
    }
    memcpy(&magic, bytes, sizeof(magic));
    if (magic == PCAPNG_SECTION)
        return pcapng_open(file);
    if (magic != PCAP_MICROSECONDS && magic != PCAP_NANOSECONDS && magic != PCAP_KUZNETZOV) {
        magic = __builtin_bswap32(magic);
        file->swapped = 1;
    }
    if (magic == PCAP_MICROSECONDS || magic == PCAP_NANOSECONDS || magic == PCAP_KUZNETZOV)
        return pcap_open(file, magic);
    capture_fault(file, "neither pcap nor pcapng");
    return -1;
}

/* As capture_begin, with a file or pipe, which is closed by capture_close. */
static int capture_open(struct capture_file *file, int fd)
{
    memset(file, 0, sizeof(*file));
    file->stream.fd = fd;
    return capture_begin(file);
}

static enum capture_read capture_next(struct capture_file *file, struct captured *packet)
{
    return file->record_bytes ? pcap_next(file, packet) : pcapng_next(file, packet);
}

#endif
