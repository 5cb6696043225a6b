/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * A libFuzzer target over the readers of capture files: `make fuzz`. An input is a file. Every packet that is given lies in the
 * file and has a time; those that are given and those that are skipped are all; and a reader that stops for a fault says which.
 */
#include "capture_file.h"

int LLVMFuzzerTestOneInput(const __u8 *data, size_t size)
{
    struct capture_file file = {.stream = {.fd = -1}};
    struct captured packet;
    enum capture_read got = CAPTURE_END;
    __u64 packets = 0;
    __u64 sum = 0;
    __u32 index;

    /* Memory of its own, so that one byte too far is seen. */
    file.stream.bytes = malloc(size ? size : 1);
    if (!file.stream.bytes)
        return 0;
    memcpy(file.stream.bytes, data, size);
    file.stream.room = size;
    file.stream.end = size;
    if (capture_begin(&file)) {
        if (!file.fault[0])
            abort();
        capture_close(&file);
        return 0;
    }
    while ((got = capture_next(&file, &packet)) > CAPTURE_END) {
        packets++;
        if (got == CAPTURE_UNREADABLE)
            continue;
        if (!packet.time_ns || packet.time_ns >> 63 || packet.wire_bytes < packet.captured)
            abort();
        for (index = 0; index < packet.captured; index++)
            sum += packet.bytes[index];
    }
    if (packets != file.packets || file.stream.taken > size || (got == CAPTURE_BROKEN) > !!file.fault[0] ||
            !!file.unreadable > !!file.fault[0] || sum > packets * CAPTURE_MOST_BYTES * 255)
        abort();
    capture_close(&file);
    return 0;
}
