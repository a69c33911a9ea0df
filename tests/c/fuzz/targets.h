/* What is fuzzed. Each target takes any bytes, and fails by a CHECK. */
#ifndef TARGETS_H
#define TARGETS_H

#include <stddef.h>
#include <stdint.h>

/* Streams as they come in, in pieces: frame.c, and the mux around it. */
void fuzz_frames_in(const uint8_t *bytes, size_t size);
/* Messages as they go out, in blocks of every kind. */
void fuzz_frames_out(const uint8_t *bytes, size_t size);
/* Headers of the PROXY protocol, in pieces: proxy.c, and header.c around it. */
void fuzz_headers(const uint8_t *bytes, size_t size);
/* A life, all of whose choices are these bytes. */
void fuzz_turn(const uint8_t *bytes, size_t size);

#endif
