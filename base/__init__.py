"""The ground floor: errors, units, ids, ports, supervision, logging. A closed set."""
