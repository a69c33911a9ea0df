/* A log-linear histogram: every recorded value is known to within 1/128. */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H

#include <stdint.h>

#define HIST_SUB_BITS 7
#define HIST_BUCKETS ((65 - HIST_SUB_BITS) << HIST_SUB_BITS)

struct hist {
    uint64_t count, sum, max;
    uint64_t buckets[HIST_BUCKETS];
};

void hist_clear(struct hist *h);
void hist_add(struct hist *h, uint64_t value);

/* The largest value that a share of `quantile` (0 to 1) lies at or below. */
uint64_t hist_quantile(const struct hist *h, double quantile);

/* Nanoseconds in, a JSON object in microseconds out; null when empty. */
void hist_print(const struct hist *h);

#endif
