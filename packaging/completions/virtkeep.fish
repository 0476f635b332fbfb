# Completion of virtkeep for fish: the program is asked, so that domains and restore points are completed, too.
COMPLETE=fish virtkeep | source
