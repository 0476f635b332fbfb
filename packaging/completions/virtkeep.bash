# Completion of virtkeep for bash: the program is asked, so that domains and restore points are completed, too.
source <(COMPLETE=bash virtkeep)
