/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* A file's or a pipe's bytes, read ahead: as many in one piece as are asked for, without a copy of each packet. */
#ifndef WIRESPAN_BYTE_STREAM_H
#define WIRESPAN_BYTE_STREAM_H

#include <errno.h>
#include <linux/types.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STREAM_BYTES (256u * 1024)

struct byte_stream {
    int fd;    /* -1: what is in `bytes` is all */
    int error; /* of the last read; 0: none */
    __u8 *bytes;
    size_t room;
    size_t begin; /* what was taken lies before it */
    size_t end;
    __u64 taken;
};

/* Make room for `size` bytes from `begin` on. Returns -1 where memory is missing. */
static inline int stream_room(struct byte_stream *stream, size_t size)
{
    size_t held = stream->end - stream->begin;
    size_t room = size > STREAM_BYTES ? size : STREAM_BYTES;
    __u8 *bytes;

    if (stream->room < room) {
        bytes = malloc(room);
        if (!bytes)
            return -1;
        if (held)
            memcpy(bytes, stream->bytes + stream->begin, held);
        free(stream->bytes);
        stream->bytes = bytes;
        stream->room = room;
    } else {
        memmove(stream->bytes, stream->bytes + stream->begin, held);
    }
    stream->begin = 0;
    stream->end = held;
    return 0;
}

/* The next `size` bytes, or NULL where there are fewer; valid until more are asked for. */
static inline const __u8 *stream_next(struct byte_stream *stream, size_t size)
{
    ssize_t got;

    if (stream->end - stream->begin >= size)
        return stream->bytes + stream->begin;
    if (stream->fd < 0)
        return NULL;
    if (stream_room(stream, size)) {
        stream->error = ENOMEM;
        return NULL;
    }
    while (stream->end < size) {
        got = read(stream->fd, stream->bytes + stream->end, stream->room - stream->end);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            stream->error = got < 0 ? errno : 0;
            return NULL;
        }
        stream->end += (size_t)got;
    }
    return stream->bytes;
}

/* Whether anything is left, after stream_next has returned NULL. */
static inline int stream_has_rest(const struct byte_stream *stream)
{
    return stream->end > stream->begin;
}

/* Take bytes that stream_next has given. */
static inline void stream_take(struct byte_stream *stream, size_t size)
{
    stream->begin += size;
    stream->taken += size;
}

static inline void stream_close(struct byte_stream *stream)
{
    if (stream->fd >= 0)
        close(stream->fd);
    free(stream->bytes);
    memset(stream, 0, sizeof(*stream));
    stream->fd = -1;
}

#endif
