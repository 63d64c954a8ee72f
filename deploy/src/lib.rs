//! What operators do with a fleet, from the command line.
