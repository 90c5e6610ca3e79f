//! One function under load, in virtual time.
