#!/bin/sh
# Print, in one line, how many tests passed and failed in all runs of pytest that a log holds; nothing if there was none.
# A run closes with `=== 2 failed, 1637 passed, 3 skipped in 171.42s (0:02:51) ===`. A test with an error has failed too.
grep -E '^=+ .*(passed|failed|error|no tests ran).* =+$' "$1" | awk '
    {
        for (k = 3; k <= NF; k++) {
            if ($k ~ /^passed,?$/) passed += $(k - 1)
            if ($k ~ /^(failed|errors?),?$/) failed += $(k - 1)
        }
    }
    END { if (NR) printf "%d passed, %d failed\n", passed, failed }'
