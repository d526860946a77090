//! A typed client of hearthd's API.
