/* Listeners: their places, and which of them may have peers to accept. */
#include "slots.h"

#include <stdlib.h>

enum { INDEX_BITS = 20 };

uint64_t pmx__listener_id(const pmx_mux *mux, const pmx__listener *l)
{
    return PMX__LISTENER_TAG | (uint64_t)l->generation << INDEX_BITS |
           (uint64_t)(l - mux->listeners);
}

pmx__listener *pmx__find_listener(const pmx_mux *mux, uint64_t id)
{
    uint32_t index = (uint32_t)(id & ((1u << INDEX_BITS) - 1));
    if (!(id & PMX__LISTENER_TAG) || index >= mux->listener_count)
        return NULL;
    pmx__listener *l = &mux->listeners[index];
    return l->rules && pmx__listener_id(mux, l) == id ? l : NULL;
}

uint64_t pmx__listener_with(const pmx_mux *mux, const pmx__rules *rules)
{
    for (uint32_t i = 0; i < mux->listener_count; i++)
        if (mux->listeners[i].rules == rules)
            return pmx__listener_id(mux, &mux->listeners[i]);
    return 0;
}

static void push(pmx_mux *mux, pmx__list *list, pmx__listener *l)
{
    uint32_t index = (uint32_t)(l - mux->listeners);
    l->prev = list->tail;
    l->next = PMX__NONE;
    if (list->tail == PMX__NONE)
        list->head = index;
    else
        mux->listeners[list->tail].next = index;
    list->tail = index;
}

static void take_out(pmx_mux *mux, pmx__list *list, const pmx__listener *l)
{
    if (l->prev == PMX__NONE)
        list->head = l->next;
    else
        mux->listeners[l->prev].next = l->next;
    if (l->next == PMX__NONE)
        list->tail = l->prev;
    else
        mux->listeners[l->next].prev = l->prev;
}

/* Put the listener into the list for its state, so that a turn does not look at
 * listeners from which nothing can be accepted. */
void pmx__listener_state(pmx_mux *mux, pmx__listener *l, int can_accept,
                         int full)
{
    if (l->full)
        take_out(mux, &mux->full_listeners, l);
    else if (l->can_accept)
        take_out(mux, &mux->accepting, l);
    l->can_accept = (uint8_t)can_accept;
    mux->stats->listeners_full += !!full;
    mux->stats->listeners_full -= l->full;
    l->full = (uint8_t)full;
    if (full)
        push(mux, &mux->full_listeners, l);
    else if (can_accept)
        push(mux, &mux->accepting, l);
}

static pmx__listener *place(pmx_mux *mux)
{
    uint32_t index = mux->free_listeners.head;
    if (index != PMX__NONE) {
        take_out(mux, &mux->free_listeners, &mux->listeners[index]);
        return &mux->listeners[index];
    }
    if (mux->listener_count >> INDEX_BITS)
        return NULL;
    if (mux->listener_count == mux->listener_room) {
        uint32_t room = mux->listener_room ? 2 * mux->listener_room : 1;
        pmx__listener *grown =
            sys_realloc(mux->listeners, room * sizeof *grown);
        if (!grown)
            return NULL;
        mux->listeners = grown;
        mux->listener_room = room;
    }
    pmx__listener *l = &mux->listeners[mux->listener_count++];
    l->generation = 0;
    return l;
}

pmx__listener *pmx__listener_new(pmx_mux *mux)
{
    pmx__listener *l = place(mux);
    if (l)
        *l = (pmx__listener){.sock = PMX__NO_SOCK,
                             .file = {.directory = -1},
                             .generation = l->generation + 1};
    return l;
}

void pmx__listener_free(pmx_mux *mux, pmx__listener *l)
{
    l->rules = NULL;
    pmx__listener_state(mux, l, 0, 0);
    push(mux, &mux->free_listeners, l);
}

/* True if a turn need not wait, since a peer may be accepted. */
int pmx__accepting(const pmx_mux *mux)
{
    if (mux->room && mux->full_listeners.head != PMX__NONE)
        return 1;               /* one of them may have a free place: look */
    return mux->accepting.head != PMX__NONE &&
           (mux->room || !mux->accept_again);
}

void pmx__may_accept(pmx_mux *mux, uint64_t id)
{
    pmx__listener *l = pmx__find_listener(mux, id);
    if (l && !l->can_accept)
        pmx__listener_state(mux, l, 1, l->full);
}

void pmx__watch_listener(pmx_mux *mux, pmx__listener *l)
{
    if (mux->poller->edge)
        return;
    int wanted = !l->full && !mux->accept_again;
    mux->poller->mod(mux->poll_state, l->sock, pmx__listener_id(mux, l),
                     wanted ? PMX__IN : PMX__DROP);
}
