"""Which files of the core call upwards or sideways: layers.py FOLDER

FOLDER has the core's objects, as tests/c/build/*/core. A file may call those of the
lines before its own, and includes the header of its layer, which includes those below.
A line has files that do not know each other.
"""

import re
import subprocess
import sys
from pathlib import Path

CORE = Path(__file__).resolve().parents[2] / "csrc"

LAYERS = """
1 net_addr.h: net_addr
1 net.h: os net
1 net.h: net_listen net_pipe
2 net.h: wakeup
2 poller.h: guard
2 poller.h: poll_epoll poll_kqueue poll_poll poll_select
2 poller.h: poller
2 poller.h: watch
3 core.h: proxy
3 core.h: arena memory names due figures
3 core.h: arrow
3 core.h: route
4 frame.h: frame_raw frame_lines frame_prefix frame_fixed
4 frame.h: frame
4 tls_engine.h: tls_area
4 tls_engine.h: tls_openssl tls_portable
4 transport.h: transport_plain pipe outq
4 transport.h: transport_tls
5 slots.h: services
5 slots.h: slots
5 slots.h: peers
5 slots.h: listeners
6 state.h: state
6 state.h: report close
6 state.h: expire
7 turn.h: shake
7 turn.h: header
7 turn.h: balance
7 turn.h: wait dial ask
7 turn.h: accept
7 turn.h: move
7 turn.h: doze
7 input.h: rows
7 input.h: input_end
7 input.h: input_cut
7 input.h: input
7 output.h: output
7 output.h: switch
7 output.h: log
8 mux.h: serve
8 mux.h: mux
9 mux.h: entry
10 mux.h: load
"""

rank, header = {}, {}
for number, line in enumerate(LAYERS.strip().splitlines()):
    _, own, *names = line.replace(":", "").split()
    for name in names:
        rank[name], header[name] = number, own

wrong = []
defined, used = {}, {}
for source in sorted(CORE.glob("*.c")):
    if source.stem not in rank:
        sys.exit(f"csrc/{source.name} stands in no layer of tests/c/layers.py")
    includes = re.findall(r'^#include "(.*)"', source.read_text(), re.MULTILINE)
    if includes != [header[source.stem]]:
        wrong.append(f"{source.name} is to include {header[source.stem]} alone")
    compiled = Path(sys.argv[1], source.stem + ".o")
    symbols = subprocess.check_output(["nm", str(compiled)], text=True)
    for kind, name in re.findall(r"^[0-9a-f ]* (\w) _?(\w+)", symbols, re.MULTILINE):
        if kind == "U":
            used.setdefault(source.stem, set()).add(name)
        elif kind.isupper():
            defined[name] = source.stem
for user, names in sorted(used.items()):
    for name in sorted(names):
        owner = defined.get(name)
        if owner and rank[owner] >= rank[user]:
            wrong.append(f"{user}.c calls {name}(), of {owner}.c")
print("\n".join(wrong), end="\n" if wrong else "")
sys.exit(bool(wrong))
