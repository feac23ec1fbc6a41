"""What AWS would refuse, found before it is asked: the rules of a job, by the thing they are about."""
