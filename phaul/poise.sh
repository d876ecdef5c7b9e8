#!/bin/sh
# CRIU calls this at points of a dump (criu(8), --action-script). pre-dump: it is about to look at the tasks. P.Haul,
# which waits for that, freezes them and says "go". Where P.Haul is not there any more, the dump fails.
[ "$CRTOOLS_SCRIPT_ACTION" = pre-dump ] || exit 0
echo poised > "$PHAUL_POISED"
read -r word < "$PHAUL_GO" && [ "$word" = go ]
