/*
 * Replays files through the library's calls, with a small table that is emptied as it fills, and checks that the counters add
 * up. For test_sanitizers.py: built with AddressSanitizer and UndefinedBehaviorSanitizer, one process takes many files.
 */
#include "replay/replay.c"

#include <fcntl.h>
#include <inttypes.h>

#define CAPACITY 16u

static void take_exchanges(struct replay *replay)
{
    struct calls *calls = replay_calls(replay);

    replay_exchanges_taken(replay);
    calls_taken(calls, calls->ended_count);
}

static int check(const char *path)
{
    struct flow *slots = calloc(CAPACITY, sizeof(*slots));
    struct flow_outer *outers = calloc(CAPACITY, sizeof(*outers));
    __u32 files[CAPACITY];
    __u32 block_used = 0;
    struct replay *replay = replay_new(slots, outers, files, &block_used, CAPACITY);
    char error[64] = "";
    __u64 first_ns;
    __u64 packets = 0;
    __u64 bytes = 0;
    __u64 until = 0;
    __u32 slot = 0;
    enum replay_stop stop;
    int kind;

    if (!slots || !outers || !replay || replay_trace(replay))
        abort();
    replay_pieces(replay)->wanted = 1 << PIECE_DNS;
    if (replay_check_file(open(path, O_RDONLY), &first_ns, error, sizeof(error)) ||
            replay_open_file(replay, open(path, O_RDONLY), 0, error, sizeof(error))) {
        replay_close(replay);
        free(outers);
        free(slots);
        return 0;
    }
    do {
        stop = replay_advance(replay, until, 1000);
        if (stop == REPLAY_UNTIL)
            until = replay->counters.next_ns;
        if (stop == REPLAY_PIECES)
            replay_pieces(replay)->used = 0;
        if (stop == REPLAY_EXCHANGES)
            take_exchanges(replay);
        if (stop == REPLAY_TABLE_FULL) {
            slot = (slot + 7) % CAPACITY;
            replay_retire(replay, &slot, 1);
            replay_release(replay, &slot, 1);
        }
    } while (stop != REPLAY_END && stop != REPLAY_CUT);
    for (kind = 0; kind < PACKET_DISPOSITIONS; kind++) {
        packets += replay->counters.disposition_packets[kind];
        bytes += replay->counters.disposition_bytes[kind];
    }
    if (packets != replay->counters.packets ||
            bytes + replay->counters.link_bytes + replay->counters.tunnel_bytes != replay->counters.bytes) {
        fprintf(stderr, "%s: the counters do not add up\n", path);
        abort();
    }
    replay_close(replay);
    free(outers);
    free(slots);
    return packets > 0;
}

int main(int count, char **paths)
{
    int read = 0;
    int index;

    for (index = 1; index < count; index++)
        read += check(paths[index]);
    printf("%d\n", read);
    return 0;
}
