#include "pattern.h"

#include <stdlib.h>
#include <string.h>

static uint64_t state = 0x9e3779b97f4a7c15U; /* xorshift: the same in each run */

static uint64_t random_below(uint64_t n)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 11) % n;
}

static void fill_text(struct pattern *p, bool lines, bool upper)
{
    static const char letters[] = "abcdefghijklmnopqrstuvwxyz-0123456789";

    for (size_t i = 0; i < p->length; i++)
        p->request[i] = letters[random_below(sizeof letters - 1)];
    for (uint32_t m = 0; lines && m < p->count; m++)
        p->request[p->ends[m] - 1] = '\n';
    for (size_t i = 0; i < p->length; i++) {
        char c = p->request[i];
        p->answer[i] = (char)(upper && c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
    }
}

/* The servers' matrix is written down in servers/matmul.py. */
static int matrix_at(int row, int column)
{
    return (row * 7 + column * 13) % 11 - 5;
}

static void fill_vectors(struct pattern *p)
{
    float in[PATTERN_MATRIX], out[PATTERN_MATRIX];

    for (uint32_t m = 0; m < p->count; m++) {
        for (int i = 0; i < PATTERN_MATRIX; i++)
            in[i] = (float)(int)random_below(16) - 8.0F;
        for (int j = 0; j < PATTERN_MATRIX; j++) {
            int sum = 0;
            for (int i = 0; i < PATTERN_MATRIX; i++)
                sum += (int)in[i] * matrix_at(i, j);
            out[j] = (float)sum;
        }
        memcpy(p->request + p->ends[m] - sizeof in, in, sizeof in);
        memcpy(p->answer + p->ends[m] - sizeof out, out, sizeof out);
    }
}

int pattern_make(struct pattern *p, size_t low, size_t high, uint32_t depth,
                 bool lines, enum payload payload)
{
    /* 64 KiB stays in the cache; one more than twice the depth, so that what
     * is in flight on a connection never meets itself. */
    size_t wanted = 65536 / ((low + high) / 2);
    if (wanted < 2 * (size_t)depth + 1)
        wanted = 2 * (size_t)depth + 1;
    if (wanted < 17)
        wanted = 17;
    p->count = (uint32_t)wanted;
    p->length = 0;
    p->ends = malloc(p->count * sizeof *p->ends);
    if (!p->ends)
        return -1;
    for (uint32_t m = 0; m < p->count; m++) {
        p->length += low + (low < high ? random_below(high - low + 1) : 0);
        p->ends[m] = p->length;
    }
    p->request = malloc(2 * p->length);
    p->answer = malloc(2 * p->length);
    if (!p->request || !p->answer)
        return -1;
    if (payload == MATMUL)
        fill_vectors(p);
    else
        fill_text(p, lines, payload == UPPER);
    memcpy(p->request + p->length, p->request, p->length);
    memcpy(p->answer + p->length, p->answer, p->length);
    return 0;
}
