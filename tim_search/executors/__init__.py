"""Who trains: packs, the queue of packs with its rules of trying again, and the executors, serial and on Ray."""
