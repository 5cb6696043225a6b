/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* From a span's attributes: the other end, and the port of this one. */
#ifndef WIRESPAN_OTLP_PEER_H
#define WIRESPAN_OTLP_PEER_H

#include <arpa/inet.h>

#include "attributes.h"

#define MOST_NAME_BYTES 253

struct host {
    uint8_t address[16]; /* IPv4 mapped into ::ffff:0:0/96; all zero: it is not a literal */
    struct bytes name;
    uint16_t port;
};

static inline uint16_t port_of(const struct value *value)
{
    uint64_t number = value->number;
    const uint8_t *at;

    if (value->type == VALUE_NONE)
        return 0;
    if (value->type == VALUE_TEXT) {
        number = 0;
        if (size_of(value->text) > 5)
            return 0;
        for (at = value->text.at; at < value->text.end; at++) {
            if (*at < '0' || *at > '9')
                return 0;
            number = number * 10 + (*at - '0');
        }
    }
    return number < 65536 ? (uint16_t)number : 0;
}

static inline int is_name(struct bytes text)
{
    const uint8_t *at;

    if (!size_of(text) || size_of(text) > MOST_NAME_BYTES)
        return 0;
    for (at = text.at; at < text.end; at++)
        if (!((*at >= 'a' && *at <= 'z') || (*at >= 'A' && *at <= 'Z') || (*at >= '0' && *at <= '9') || *at == '.' ||
                    *at == '-' || *at == '_'))
            return 0;
    return 1;
}

/* A literal address, in brackets and with a zone or without, or else a name; 0: it is neither. */
static inline int read_host(struct bytes text, struct host *host)
{
    static const uint8_t nowhere[16];
    static const uint8_t mapped[12] = {[10] = 0xff, 0xff};
    char copy[INET6_ADDRSTRLEN];
    const uint8_t *zone;

    memset(host, 0, sizeof(*host));
    if (size_of(text) > 2 && *text.at == '[' && text.end[-1] == ']') {
        text.at++;
        text.end--;
    }
    if (!size_of(text))
        return 0;
    zone = memchr(text.at, '%', size_of(text));
    if (size_of(text) < sizeof(copy) &&
            (zone || memchr(text.at, ':', size_of(text)) || (text.end[-1] >= '0' && text.end[-1] <= '9'))) {
        uint32_t size = (uint32_t)((zone ? zone : text.end) - text.at);

        memcpy(copy, text.at, size);
        copy[size] = 0;
        if (inet_pton(AF_INET, copy, host->address + 12) == 1) {
            if (!memcmp(host->address + 12, nowhere, 4))
                return 0;
            memcpy(host->address, mapped, sizeof(mapped));
            return 1;
        }
        if (inet_pton(AF_INET6, copy, host->address) == 1)
            return memcmp(host->address, nowhere, sizeof(nowhere)) != 0;
        memset(host->address, 0, sizeof(host->address));
    }
    if (!is_name(text))
        return 0;
    host->name = text;
    return 1;
}

static inline int begins(struct bytes text, const char *with)
{
    return size_of(text) >= strlen(with) && !memcmp(text.at, with, strlen(with));
}

/* Host and port of a URL, the scheme's where it has none. */
static inline int read_url(struct bytes url, struct host *host)
{
    uint16_t usual = begins(url, "https://") || begins(url, "wss://") ? 443
                     : begins(url, "http://") || begins(url, "ws://") ? 80
                                                                      : 0;
    struct value port = {.type = VALUE_TEXT};
    struct bytes authority;
    const uint8_t *at;

    for (at = url.at; at + 2 < url.end && memcmp(at, "://", 3); at++)
        ;
    if (at + 2 >= url.end)
        return 0;
    authority.at = authority.end = at + 3;
    while (authority.end < url.end && *authority.end != '/' && *authority.end != '?' && *authority.end != '#') {
        if (*authority.end++ == '@')
            authority.at = authority.end;
    }
    for (at = authority.end; at > authority.at && at[-1] >= '0' && at[-1] <= '9'; at--)
        ;
    if (at > authority.at && at[-1] == ':' && (authority.at[0] != '[' || (at - 1 > authority.at && at[-2] == ']'))) {
        port.text = (struct bytes){at, authority.end};
        authority.end = at - 1;
    }
    if (!read_host(authority, host))
        return 0;
    host->port = size_of(port.text) ? port_of(&port) : usual;
    return 1;
}

/* The port at which a system is found where nobody says another one: conventions leave it out then. */
static inline uint16_t usual_port(const struct value *system)
{
    static const struct {
        const char *name;
        uint16_t port;
    } usual[] = {
            {"postgresql", 5432},
            {"mysql", 3306},
            {"mariadb", 3306},
            {"redis", 6379},
            {"mongodb", 27017},
            {"mssql", 1433},
            {"microsoft.sql_server", 1433},
            {"oracle", 1521},
            {"oracle.db", 1521},
            {"cassandra", 9042},
            {"elasticsearch", 9200},
            {"opensearch", 9200},
            {"memcached", 11211},
            {"couchdb", 5984},
            {"neo4j", 7687},
            {"cockroachdb", 26257},
            {"influxdb", 8086},
            {"kafka", 9092},
            {"rabbitmq", 5672},
            {"activemq", 61616},
            {"pulsar", 6650},
            {"nats", 4222},
    };
    unsigned index;

    if (system->type == VALUE_TEXT)
        for (index = 0; index < sizeof(usual) / sizeof(*usual); index++)
            if (strlen(usual[index].name) == size_of(system->text) && begins(system->text, usual[index].name))
                return usual[index].port;
    return 0;
}

struct pair {
    enum attribute address;
    enum attribute port;
};

/* What the socket's other end was first, then what the application called it. */
static const struct pair servers[] = {
        {NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT},
        {NET_SOCK_PEER_ADDR, NET_SOCK_PEER_PORT},
        {SERVER_SOCKET_ADDRESS, SERVER_SOCKET_PORT},
        {NET_PEER_IP, NET_PEER_PORT},
        {SERVER_ADDRESS, SERVER_PORT},
        {NET_PEER_NAME, NET_PEER_PORT},
};
static const struct pair clients[] = {
        {NETWORK_PEER_ADDRESS, NETWORK_PEER_PORT},
        {NET_SOCK_PEER_ADDR, NET_SOCK_PEER_PORT},
        {CLIENT_SOCKET_ADDRESS, CLIENT_SOCKET_PORT},
        {NET_PEER_IP, NET_PEER_PORT},
        {CLIENT_ADDRESS, CLIENT_PORT},
};

static inline int first_of(const struct value *values, const struct pair *pairs, unsigned count, struct host *host)
{
    unsigned index;

    for (index = 0; index < count; index++) {
        const struct value *address = &values[pairs[index].address];

        if (address->type == VALUE_TEXT && read_host(address->text, host)) {
            host->port = port_of(&values[pairs[index].port]);
            return 1;
        }
    }
    memset(host, 0, sizeof(*host));
    return 0;
}

/* Whom a client's, producer's or consumer's span asked. A port that its address came without is any that is said of the server. */
static inline void server_of(const struct value *values, struct host *host)
{
    const struct value *url = values[URL_FULL].type == VALUE_TEXT ? &values[URL_FULL] : &values[HTTP_URL];
    struct host of_url = {0};

    if (url->type != VALUE_TEXT || !read_url(url->text, &of_url))
        memset(&of_url, 0, sizeof(of_url));
    if (!first_of(values, servers, sizeof(servers) / sizeof(*servers), host))
        *host = of_url;
    if (!host->port)
        host->port = port_of(&values[SERVER_PORT]);
    if (!host->port)
        host->port = port_of(&values[NET_PEER_PORT]);
    if (!host->port)
        host->port = of_url.port;
    if (!host->port)
        host->port = usual_port(&values[SYSTEM]);
}

/* Who asked, of a server's span, and at which port. A client's port is never another pair's, and a name is no client's. */
static inline uint16_t client_of(const struct value *values, struct host *host)
{
    uint16_t port = port_of(&values[NETWORK_LOCAL_PORT]);

    first_of(values, clients, sizeof(clients) / sizeof(*clients), host);
    if (size_of(host->name))
        memset(host, 0, sizeof(*host));
    if (!port)
        port = port_of(&values[NET_SOCK_HOST_PORT]);
    /* What the client called the port may be a proxy's or a Service's: it is of use where nothing else tells connections apart. */
    if (!port && !host->port)
        port = port_of(&values[SERVER_PORT]);
    if (!port && !host->port)
        port = port_of(&values[NET_HOST_PORT]);
    return port;
}

#endif
