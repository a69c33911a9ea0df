/* See virtual.h. */
#include "virtual.h"

#ifdef __linux__
#include <string.h>

void virtual_begin(world *w, const pmx_policy *policy, size_t room)
{
    sim_begin();
    sim_now.room_in = sim_now.room_out = room;
    world_serve(w, policy);
}

void virtual_end(world *w)
{
    world_is_clean(w);
    world_end(w);
    sim_end();
}

int virtual_peer(world *w, uint64_t *id)
{
    size_t before = w->opened.count;
    struct sockaddr_in to = {.sin_family = AF_INET};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    to.sin_port = htons((uint16_t)w->port);
    sim_as_peer = 1;
    int fd = sim_socket(AF_INET, SOCK_STREAM, 0);
    CHECK(fd >= 0);
    (void)sim_connect(fd, (const struct sockaddr *)&to, sizeof to);
    sim_as_peer = 0;
    for (int n = 0; w->opened.count == before; n++) {
        CHECK(n < 10);
        turn(w, MS);
    }
    *id = w->opened.ids[before];
    return fd;
}
#else
typedef int virtual_on_linux;   /* a file must not be empty */
#endif
