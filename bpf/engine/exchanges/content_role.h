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

#include "../http2/frame.h"

#define CONTENT_BYTES            16u /* that are looked at: a head of HTTP/2, and what may stand behind it */
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

/*
 * Who says a frame of HTTP/2: first in a header block are pseudo-headers, others of a request than of a response (RFC 9113 8.3), and
 * they are in the static table (RFC 7541, appendix A). Returns as content_speaker.
 */
FLOW_INLINE int content_of_frame(const __u8 *head)
{
    /* Both, and then one of them: BPF's verifier reads no place on the stack that varies. */
    __u64 has_priority = 0 - (__u64)(head[4] / HTTP2_HAS_PRIORITY & 1);
    __u64 field = (head[HTTP2_HEAD_BYTES + 5] & has_priority) | (head[HTTP2_HEAD_BYTES] & ~has_priority);

    if (head[3] != HTTP2_HEADERS || head[4] & HTTP2_PADDED || !http2_is_plausible(head))
        return -1;
    if ((field >= 0x82 && field <= 0x87) || field == 0x41 || field == 0x44 || field == 0x01 || field == 0x04)
        return FLOW_TX; /* indexed; `:authority` and `:path` with a value */
    return (field >= 0x88 && field <= 0x8e) || field == 0x48 ? FLOW_RX : -1;
}

/* Of the first CONTENT_BYTES of a payload. FLOW_TX: the client says this. FLOW_RX: the server does. -1: nobody knows. */
FLOW_INLINE int content_speaker(const __u8 *text)
{
    __u32 word;

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
    return content_of_frame(text);
}

/* Look at the payload, at `offset`, of a packet that is about to be added to its flow; its flow's role is open. */
FLOW_INLINE void content_tell(frame_source source, __u32 offset, struct flow *flow, const struct packet *packet, int from)
{
    __u8 text[CONTENT_BYTES] = {0};
    int speaker;

    if (packet->payload_bytes < CONTENT_BYTES || parse_load(source, offset, text, CONTENT_BYTES))
        return;
    speaker = content_speaker(text);
    if (speaker >= 0)
        flow_tell_client(flow, speaker == FLOW_TX ? from : !from, FLOW_ROLE_OF_CONTENT);
}

#endif
