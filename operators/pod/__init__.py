"""What runs inside a pod or a job: the runner of operators, the guard, the hint, S3, the batch waiter, `job.sh`.

What may enter: standard library only, and boto3 where S3 is. It runs where nothing else of ours is installed.
"""
