/* SPDX-License-Identifier: (BSD-2-Clause OR GPL-2.0-only) */
/* Replay's keeping of questions that have numbers and wait for their answers (engine/questions.h). */
#ifndef WIRESPAN_REPLAY_QUESTIONS_H
#define WIRESPAN_REPLAY_QUESTIONS_H

#include "../host.h"

#include "../hash.h"

#include "../../engine/parse.h"

/* So many may wait: beyond it the one that was asked first is given up. A power of two. */
#ifndef QUESTION_PLACES
#define QUESTION_PLACES 131072u
#endif

struct questions;

/* Whose question engine/questions.h speaks of. */
struct question_of {
    struct questions *questions;
    __u64 flow_id; /* no two flows have the same, so what is left behind by one is nobody's */
};

typedef struct question_of question_host;

#include "../../engine/questions.h"

struct kept_question {
    __u64 flow_id; /* 0: the place is free */
    struct question question;
    __u32 next; /* in its chain */
    __u32 before;
    __u32 after;
    __u32 number;
};

/* Chains by hash, and all places in a ring: free ones first, then in the order in which they were asked. Place 0 is its joint. */
struct questions {
    __u32 used; /* places beyond were never touched */
    __u32 chains[QUESTION_PLACES];
    struct kept_question places[QUESTION_PLACES + 1];
};

static inline __u32 *question_chain(question_host host, __u64 number)
{
    return &host.questions->chains[mix(host.flow_id ^ SAME_SEEDS[0], number ^ SAME_SEEDS[1]) & (QUESTION_PLACES - 1)];
}

static inline __u32 question_find(question_host host, __u16 number)
{
    const struct kept_question *places = host.questions->places;
    __u32 place = *question_chain(host, number);

    while (place && (places[place].flow_id != host.flow_id || places[place].number != number))
        place = places[place].next;
    return place;
}

static inline void question_leave_ring(struct kept_question *places, __u32 place)
{
    places[places[place].before].after = places[place].after;
    places[places[place].after].before = places[place].before;
}

static inline void question_join_ring(struct kept_question *places, __u32 place, __u32 before)
{
    places[place].before = before;
    places[place].after = places[before].after;
    places[places[before].after].before = place;
    places[before].after = place;
}

/* Take a place that is in use out of its chain. */
static inline void question_unchain(struct questions *questions, __u32 place)
{
    struct kept_question *kept = &questions->places[place];
    __u32 *link = question_chain((question_host){questions, kept->flow_id}, kept->number);

    while (*link != place)
        link = &questions->places[*link].next;
    *link = kept->next;
    kept->flow_id = 0;
}

static inline struct question *question_open(question_host host, __u16 number)
{
    __u32 place = question_find(host, number);

    return place ? &host.questions->places[place].question : NULL;
}

static inline void question_forget(question_host host, __u16 number)
{
    __u32 place = question_find(host, number);

    if (!place)
        return;
    question_unchain(host.questions, place);
    question_leave_ring(host.questions->places, place);
    question_join_ring(host.questions->places, place, 0);
}

static inline int question_keep(question_host host, __u16 number, const struct question *question)
{
    struct kept_question *places = host.questions->places;
    __u32 place;
    __u32 *chain;

    question_forget(host, number);
    place = places[0].after;
    if ((!place || places[place].flow_id) && host.questions->used < QUESTION_PLACES) {
        place = ++host.questions->used;
    } else {
        if (places[place].flow_id)
            question_unchain(host.questions, place);
        question_leave_ring(places, place);
    }
    chain = question_chain(host, number);
    places[place].flow_id = host.flow_id;
    places[place].number = number;
    places[place].question = *question;
    places[place].next = *chain;
    *chain = place;
    question_join_ring(places, place, places[0].before);
    return 1;
}

#endif
