/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/*
 * Who asks and who answers, by what is said: for a connection whose handshake was not seen. Only what begins a segment and nothing
 * but a protocol's own first line looks like; what is not known stays unknown.
 *
 * A host defines frame_source and parse_load before including this.
 */
#ifndef WIRESPAN_CONTENT_ROLE_H
#define WIRESPAN_CONTENT_ROLE_H

#include "../flow.h"

#define CONTENT_WORD(a, b, c, d) ((__u32)(a) | (__u32)(b) << 8 | (__u32)(c) << 16 | (__u32)(d) << 24)

/* Whether these are the digits of a status (RFC 9112 4). */
FLOW_INLINE int content_is_status(const __u8 *text)
{
    return text[0] >= '1' && text[0] <= '5' && text[1] >= '0' && text[1] <= '9' && text[2] >= '0' && text[2] <= '9';
}

/* Whether a request's target is here: a path, a whole URI, or `*` (RFC 9112 3.2); CONNECT's is no path. */
FLOW_INLINE int content_is_target(const __u8 *text)
{
    return text[0] == '/' || text[0] == '*' || (text[0] == 'h' && text[1] == 't' && text[2] == 't' && text[3] == 'p');
}

/* FLOW_TX: the client says this. FLOW_RX: the server does. -1: nobody knows. */
FLOW_INLINE int content_speaker(frame_source source, __u32 offset, __u32 payload_bytes)
{
    __u8 text[16] = {0};
    __u32 word;

    if (payload_bytes < sizeof(text) || parse_load(source, offset, text, sizeof(text)))
        return -1;
    word = CONTENT_WORD(text[0], text[1], text[2], text[3]);
    if (word == CONTENT_WORD('H', 'T', 'T', 'P'))
        return text[4] == '/' && text[5] == '1' && text[6] == '.' && text[8] == ' ' && content_is_status(text + 9) ? FLOW_RX
                                                                                                                   : -1;
    if (word == CONTENT_WORD('G', 'E', 'T', ' ') || word == CONTENT_WORD('P', 'U', 'T', ' '))
        return content_is_target(text + 4) ? FLOW_TX : -1;
    if ((word == CONTENT_WORD('P', 'O', 'S', 'T') || word == CONTENT_WORD('H', 'E', 'A', 'D')) && text[4] == ' ')
        return content_is_target(text + 5) ? FLOW_TX : -1;
    if (word == CONTENT_WORD('P', 'A', 'T', 'C') && text[4] == 'H' && text[5] == ' ')
        return content_is_target(text + 6) ? FLOW_TX : -1;
    if (word == CONTENT_WORD('D', 'E', 'L', 'E') && text[4] == 'T' && text[5] == 'E' && text[6] == ' ')
        return content_is_target(text + 7) ? FLOW_TX : -1;
    if (word == CONTENT_WORD('O', 'P', 'T', 'I') && text[4] == 'O' && text[5] == 'N' && text[6] == 'S' && text[7] == ' ')
        return content_is_target(text + 8) ? FLOW_TX : -1;
    return -1;
}

/* Look at the payload, at `offset`, of a packet that is about to be added to its flow; its flow's role is open. */
FLOW_INLINE void content_tell(frame_source source, __u32 offset, struct flow *flow, const struct packet *packet, int from)
{
    int speaker = content_speaker(source, offset, packet->payload_bytes);

    if (speaker >= 0)
        flow_tell_client(flow, speaker == FLOW_TX ? from : !from, FLOW_ROLE_OF_CONTENT);
}

#endif
