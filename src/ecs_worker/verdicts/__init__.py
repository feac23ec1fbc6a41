"""AWS's answers, judged: pure functions from an error, a failure or a stopped task to what follows."""
