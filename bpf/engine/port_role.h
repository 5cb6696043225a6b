/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The role of a TCP connection by its ports: a guess. */
#ifndef WIRESPAN_PORT_ROLE_H
#define WIRESPAN_PORT_ROLE_H

#include "flow.h"

/*
 * Whose direction it is from `source` to `destination` by the ports: FLOW_TX the client's, FLOW_RX the server's, -1 where they do
 * not say. The client is the end with an ephemeral port where only one has one: Linux takes them from 32768 on, and nobody takes
 * them below 1024.
 */
FLOW_INLINE int direction_by_ports(__u16 source, __u16 destination)
{
    if ((source < 1024) != (destination < 1024))
        return source < 1024 ? FLOW_RX : FLOW_TX;
    if ((source < 32768) != (destination < 32768))
        return source < 32768 ? FLOW_RX : FLOW_TX;
    return -1;
}

#endif
