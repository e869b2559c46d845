"""The loop: ask the plan, train what the ledger lacks, write it down, ask again; and the files of a search."""
