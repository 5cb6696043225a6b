/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* What replay gives the engine: frames that lie in memory, and time to read TCP's options. Included before the engine. */
#ifndef WIRESPAN_HOST_H
#define WIRESPAN_HOST_H

#include <linux/types.h>
#include <string.h>

struct frame {
    const __u8 *bytes;
    __u32 captured;
};

typedef const struct frame *frame_source;

static inline int parse_load(frame_source source, __u32 offset, void *target, __u32 size)
{
    if (offset > source->captured || size > source->captured - offset)
        return -1;
    memcpy(target, source->bytes + offset, size);
    return 0;
}

#define PARSE_TCP_OPTIONS
#define PARSE_PLACES

#endif
