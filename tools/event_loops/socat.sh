# SPDX-License-Identifier: MIT
# It says nothing at its start, so its input says when the thresholds are written.
exec socat - "OPEN:$1,rdwr" < <(printf 'used 80%%'; sleep 1; echo watching >&2; exec sleep 60)
