/* The system in memory and the real one side by side: the same sockets in
 * both, as test_sim.c compares them. */
#ifndef BOTH_H
#define BOTH_H

#ifdef __linux__
#include "net.h"
#include "sim.h"

enum { SOCKS = 6, BACKLOG = 2 };

/* Each system's numbers for the same sockets: [0] real, [1] in memory. */
extern int socks[2][SOCKS], epolls[2], listeners[2];
extern int tcp;                 /* or Unix sockets */

void both_begin(void);
void both_end(void);

/* A socket that calls the listener; errno, EINPROGRESS by rights. */
int call_in(int system, int *fd);
/* socks[system][at] and the next, connected to each other, and watched. */
void pair_in(int system, int at);

int state_in(int system, int sock);     /* what poll says of it */
/* The edges since the last call, by socket. */
void edges_in(int system, uint32_t *edges);

/* What has been sent arrives at once over loopback, nearly always: whether to
 * look again. *until is 0 at first. */
int soon(int64_t *until);
#endif

#endif
