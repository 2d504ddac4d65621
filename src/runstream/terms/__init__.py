"""On what terms tenants are served: kept in Postgres, changed by operators, and known in every process."""
