/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* The attributes of spans and resources that say who spoke to whom: today's names of the semantic conventions, and older ones. */
#ifndef WIRESPAN_OTLP_ATTRIBUTES_H
#define WIRESPAN_OTLP_ATTRIBUTES_H

#include "wire.h"

enum attribute {
    NETWORK_PEER_ADDRESS,
    NETWORK_PEER_PORT,
    NETWORK_LOCAL_PORT,
    NET_SOCK_PEER_ADDR,
    NET_SOCK_PEER_PORT,
    NET_SOCK_HOST_PORT,
    SERVER_SOCKET_ADDRESS,
    SERVER_SOCKET_PORT,
    CLIENT_SOCKET_ADDRESS,
    CLIENT_SOCKET_PORT,
    NET_PEER_IP,
    NET_PEER_NAME,
    NET_PEER_PORT,
    NET_HOST_PORT,
    SERVER_ADDRESS,
    SERVER_PORT,
    CLIENT_ADDRESS,
    CLIENT_PORT,
    URL_FULL,
    HTTP_URL,
    SYSTEM,
    K8S_POD_UID,
    K8S_POD_IP,
    CONTAINER_ID,
    HOST_NAME,
    ATTRIBUTES,
    NO_ATTRIBUTE = ATTRIBUTES,
};

enum value_type {
    VALUE_NONE, /* or one that is neither of the others */
    VALUE_TEXT,
    VALUE_NUMBER,
};

struct value {
    enum value_type type;
    uint64_t number;
    struct bytes text;
};

static inline enum attribute attribute_of(struct bytes key)
{
#define IS(name, attribute)                                                                                                    \
    if (!memcmp(key.at, name, sizeof(name) - 1))                                                                               \
    return attribute
    switch (size_of(key)) {
    case 8:
        IS("url.full", URL_FULL);
        IS("http.url", HTTP_URL);
        break;
    case 9:
        IS("db.system", SYSTEM);
        IS("host.name", HOST_NAME);
        break;
    case 10:
        IS("k8s.pod.ip", K8S_POD_IP);
        break;
    case 11:
        IS("net.peer.ip", NET_PEER_IP);
        IS("server.port", SERVER_PORT);
        IS("client.port", CLIENT_PORT);
        IS("k8s.pod.uid", K8S_POD_UID);
        break;
    case 12:
        IS("container.id", CONTAINER_ID);
        break;
    case 13:
        IS("net.peer.name", NET_PEER_NAME);
        IS("net.peer.port", NET_PEER_PORT);
        IS("net.host.port", NET_HOST_PORT);
        break;
    case 14:
        IS("server.address", SERVER_ADDRESS);
        IS("client.address", CLIENT_ADDRESS);
        IS("db.system.name", SYSTEM);
        break;
    case 16:
        IS("messaging.system", SYSTEM);
        break;
    case 17:
        IS("network.peer.port", NETWORK_PEER_PORT);
        break;
    case 18:
        IS("network.local.port", NETWORK_LOCAL_PORT);
        IS("net.sock.peer.addr", NET_SOCK_PEER_ADDR);
        IS("net.sock.peer.port", NET_SOCK_PEER_PORT);
        IS("net.sock.host.port", NET_SOCK_HOST_PORT);
        IS("server.socket.port", SERVER_SOCKET_PORT);
        IS("client.socket.port", CLIENT_SOCKET_PORT);
        break;
    case 20:
        IS("network.peer.address", NETWORK_PEER_ADDRESS);
        break;
    case 21:
        IS("server.socket.address", SERVER_SOCKET_ADDRESS);
        IS("client.socket.address", CLIENT_SOCKET_ADDRESS);
        break;
    default:
        break;
    }
#undef IS
    return NO_ATTRIBUTE;
}

/* opentelemetry.proto.common.v1.AnyValue: of its kinds the last that is there counts. */
static inline int read_value(struct bytes rest, struct value *value)
{
    struct field field;
    int got;

    while ((got = next_field(&rest, &field)) > 0) {
        if (is_message(&field, 1)) {
            value->type = VALUE_TEXT;
            value->text = field.bytes;
        } else if (field.number == 3 && field.type == WIRE_VARINT) {
            value->type = VALUE_NUMBER;
            value->number = field.value;
        } else if ((field.number == 2 && field.type == WIRE_VARINT) || (field.number == 4 && field.type == WIRE_FIXED64) ||
                   (field.number >= 5 && field.number <= 7 && field.type == WIRE_BYTES)) {
            value->type = VALUE_NONE;
        }
    }
    return got;
}

/* opentelemetry.proto.common.v1.KeyValue: its value to the place of its key, if it is one of ours. */
static inline int read_attribute(struct bytes rest, struct value values[ATTRIBUTES])
{
    struct bytes key = {rest.at, rest.at};
    struct bytes whole = rest;
    struct value value = {0};
    enum attribute attribute;
    struct field field;
    int got;

    while ((got = next_field(&rest, &field)) > 0)
        if (is_message(&field, 1))
            key = field.bytes;
    if (got)
        return got;
    attribute = attribute_of(key);
    if (attribute == NO_ATTRIBUTE)
        return 0;
    while (next_field(&whole, &field) > 0)
        if (is_message(&field, 2) && read_value(field.bytes, &value))
            return -1;
    values[attribute] = value;
    return 0;
}

#endif
