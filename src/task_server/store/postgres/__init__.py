"""The store on PostgreSQL: several servers, one database."""
