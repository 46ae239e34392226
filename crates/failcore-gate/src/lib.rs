//! The reference monitor: completes, decides, records, grants.
