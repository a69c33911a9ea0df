/*
 * A toy of a transport, with what TLS needs of the table: each side says one
 * byte first, then come records, whose bytes are changed; a record without
 * bytes is the bye. An end of stream before that is a cut, ECONNABORTED.
 */
#ifndef TOY_H
#define TOY_H

#include "world.h"

enum { TOY_RECORD = 700, TOY_HEAD = 2, TOY_HELLO = 'h' };
enum { TOY_SLACK = 64 };        /* how much longer refused output becomes */

extern const pmx__transport toy_tcp, toy_unix;
extern int toy_states;          /* connections that have not ended */

/* The toy in the place of the transport of these rules. */
void toy_instead(pmx__rules *rules);

/* A peer's side. What it says, and what it hears, as it goes over the wire. */
void toy_wrap(buffer *wire, const void *bytes, size_t size);
void toy_bye(buffer *wire);
/* Takes whole records off the wire, from *at on; 1: the bye was among them. */
int toy_unwrap(const buffer *wire, size_t *at, buffer *plain);

#endif
