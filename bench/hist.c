#include "hist.h"

#include <stdio.h>
#include <string.h>

/* Values below 2^8 have a bucket each; above, each power of two is cut into
 * 2^7 equal buckets. */
static unsigned index_of(uint64_t value)
{
    unsigned top = 63U - (unsigned)__builtin_clzll(value | 1);
    unsigned shift = top > HIST_SUB_BITS ? top - HIST_SUB_BITS : 0;
    return (shift << HIST_SUB_BITS) + (unsigned)(value >> shift);
}

static uint64_t highest_in(unsigned index)
{
    unsigned shift = index >> HIST_SUB_BITS;
    shift = shift > 0 ? shift - 1 : 0;
    uint64_t base = index - (shift << HIST_SUB_BITS);
    return ((base + 1) << shift) - 1;
}

void hist_clear(struct hist *h)
{
    memset(h, 0, sizeof *h);
}

void hist_add(struct hist *h, uint64_t value)
{
    h->count++;
    h->sum += value;
    if (value > h->max)
        h->max = value;
    h->buckets[index_of(value)]++;
}

uint64_t hist_quantile(const struct hist *h, double quantile)
{
    double rank = quantile * (double)h->count;
    uint64_t seen = 0;

    for (unsigned i = 0; i < HIST_BUCKETS; i++) {
        seen += h->buckets[i];
        if (seen > 0 && (double)seen >= rank)
            return highest_in(i) < h->max ? highest_in(i) : h->max;
    }
    return h->max;
}

void hist_print(const struct hist *h)
{
    static const struct {
        const char *name;
        double quantile;
    } shown[] = {
        {"p50", 0.5},   {"p75", 0.75},   {"p90", 0.9},     {"p95", 0.95},
        {"p99", 0.99}, {"p99.9", 0.999}, {"p99.99", 0.9999},
    };

    if (h->count == 0) {
        printf("null");
        return;
    }
    printf("{\"count\": %llu", (unsigned long long)h->count);
    for (unsigned i = 0; i < sizeof shown / sizeof shown[0]; i++)
        printf(", \"%s\": %.3f", shown[i].name,
               (double)hist_quantile(h, shown[i].quantile) / 1e3);
    printf(", \"max\": %.3f, \"mean\": %.3f}", (double)h->max / 1e3,
           (double)h->sum / (double)h->count / 1e3);
}
