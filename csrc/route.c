/* The sockets of a connection that is being made: one for each attempt that is
 * on its way. */
#include "core.h"

/* The socket that a caller may ask about: of an outgoing connection the one of
 * the newest attempt. */
pmx_sock pmx__sock_of(const pmx__conn *c)
{
    if (!pmx__connects(c))
        return c->sock;
    const pmx__route *route = c->at.route;
    for (uint32_t i = route->next; i--;)
        if (route->attempts[i].sock != PMX__NO_SOCK)
            return route->attempts[i].sock;
    return PMX__NO_SOCK;
}

/* A socket that is connected to itself would linger, so a failed attempt is
 * reset. The peer of a good one that comes too late sees an end of stream. */
void pmx__end_attempt(pmx_mux *mux, pmx__attempt *attempt, int failed)
{
    if (attempt->sock == PMX__NO_SOCK)
        return;
    mux->poller->del(mux->poll_state, attempt->sock);
    if (failed)
        pmx__reset_sock(attempt->sock);
    else
        pmx__close_sock(attempt->sock);
    attempt->sock = PMX__NO_SOCK;
}

/* The poller watches the socket of an attempt as it does that of a connection
 * which is CONNECTING, so `watched` tells of it. */
void pmx__take_socket(pmx_mux *mux, pmx__conn *c, pmx_sock sock, int forked)
{
    pmx__route *route = c->at.route;
    for (uint32_t i = 0; i < route->next; i++) {
        pmx__attempt *attempt = &route->attempts[i];
        if (attempt->sock == sock)
            attempt->sock = PMX__NO_SOCK;
        else if (!forked)
            pmx__end_attempt(mux, attempt, 0);
        else if (attempt->sock != PMX__NO_SOCK)
            pmx__drop_sock(attempt->sock);
    }
    c->sock = sock;
    if (sock != PMX__NO_SOCK) {
        c->flags |= PMX__IN_POLLER;
        c->watched = mux->poller->edge ? PMX__WATCH_IN | PMX__WATCH_OUT
                                       : PMX__WATCH_OUT;
    }
}
