"""AWS: the only importer of aioboto3 and botocore. Raises only AwsError (and UserError for configuration)."""
