"""From a claimed run to the requests that launch it."""
