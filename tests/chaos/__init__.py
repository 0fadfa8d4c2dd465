"""The chaos suite: every plug is pulled, on a real Apache Kafka and a real Redis, and each time the ledger must balance."""
