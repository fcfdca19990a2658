"""The AWS services besides DynamoDB: Secrets Manager and SQS."""
