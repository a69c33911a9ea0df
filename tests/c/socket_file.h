/* A mux, and a folder of its own for a socket file. */
#ifndef SOCKET_FILE_H
#define SOCKET_FILE_H

#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char directory[64], path[128];

static inline pmx_endpoint begin(world *w)
{
    strcpy(directory, "/tmp/pymux-test-XXXXXX");
    CHECK(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/socket", directory);
    world_begin(w, 100, 10000);
    return (pmx_endpoint){.path = path, .path_size = (uint32_t)strlen(path)};
}

static inline void end(world *w)
{
    world_end(w);
    unlink(path);
    rmdir(directory);
}

static inline int exists(void)
{
    struct stat info;
    return !lstat(path, &info);
}

#endif
