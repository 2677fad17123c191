"""An S3 service for tests, and one that fails in the ways services do."""
