/* What is sent and what must come back: a ring of messages, known beforehand. */
#ifndef BENCH_PATTERN_H
#define BENCH_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PATTERN_MATRIX 256 /* order of the matrix of --payload matmul */

enum payload { UPPER, ECHO, MATMUL }; /* what a message's answer is */

/* Each connection sends the ring's messages one after the other, starting at a
 * message of its own, so that an answer that is late, lost, doubled or somebody
 * else's differs from the one that is due. Both texts stand twice in a row:
 * any `length` bytes from any place of the first are contiguous. */
struct pattern {
    uint32_t count; /* messages */
    size_t length;  /* bytes of all of them */
    size_t *ends;   /* where each message ends */
    char *request, *answer;
};

/* Messages of `low` to `high` bytes on the wire, at least `depth` of them in
 * the ring; lines end in "\n". An answer is the message in upper case or as it
 * is; under MATMUL a message is a float32 vector and its answer the product with
 * a fixed matrix of small integers, which is exact in whatever order it is
 * summed. Returns 0, or -1 without memory. */
int pattern_make(struct pattern *p, size_t low, size_t high, uint32_t depth,
                 bool lines, enum payload payload);

#endif
