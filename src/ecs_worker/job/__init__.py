"""The job's language: job variables, templates, validation, and pure judgement of what AWS says. No I/O."""
