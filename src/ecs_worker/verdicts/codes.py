"""AWS's error codes that more than one module knows. Source: the errors of each action in the ECS API reference."""

from __future__ import annotations

ACCESS_DENIED = "AccessDeniedException"
CLIENT_ERROR = "ClientException"  # the request is at fault: ECS's code for nearly everything
CONFLICT = "ConflictException"  # the clientToken was used before, with other parameters
INVALID_PARAMETER = "InvalidParameterException"
NO_CLUSTER = "ClusterNotFoundException"
NO_SERVICE = "ServiceNotActiveException"
UNSUPPORTED = "UnsupportedFeatureException"
