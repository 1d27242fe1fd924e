"""How many requests came, how they ended and how long they took, in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections import Counter, defaultdict, deque

import numpy as np

ROUTES = ("/", "/v1/generate", "/v1/stream", "/v1/edit", "/v1/scene", "/v1/worlds", "/v1/health", "/v1/metrics")
RECENT = 1000
"""Latest requests of each route that quantiles are taken of."""
QUANTILES = (0.5, 0.95)


class Metrics:
    """Counts of one gateway."""

    def __init__(self):
        """Nothing has come yet."""
        self.open = 0
        self.requests: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.recent: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.batches: Counter[int] = Counter()
        self.retries = 0

    def observe(self, path: str, status: int, seconds: float) -> None:
        """One request has ended."""
        route = path if path in ROUTES else "other"
        self.requests[route, status] += 1
        self.seconds[route] += seconds
        self.recent[route].append(seconds)

    def text(self) -> str:
        """Everything, a line each."""
        lines = ["# HELP dreamrl_requests_total Requests by route and status.", "# TYPE dreamrl_requests_total counter"]
        for (route, status), count in sorted(self.requests.items()):
            lines.append(f'dreamrl_requests_total{{route="{route}",status="{status}"}} {count}')
        lines += ["# HELP dreamrl_request_seconds From arrival to the end of the response; quantiles of the latest."]
        lines += ["# TYPE dreamrl_request_seconds summary"]
        for route, recent in sorted(self.recent.items()):
            for quantile in QUANTILES:
                value = float(np.quantile(recent, quantile))
                lines.append(f'dreamrl_request_seconds{{route="{route}",quantile="{quantile}"}} {value:.6f}')
            count = sum(n for (where, _), n in self.requests.items() if where == route)
            lines.append(f'dreamrl_request_seconds_sum{{route="{route}"}} {self.seconds[route]:.6f}')
            lines.append(f'dreamrl_request_seconds_count{{route="{route}"}} {count}')
        lines += ["# HELP dreamrl_open_requests Requests in work.", "# TYPE dreamrl_open_requests gauge"]
        lines.append(f"dreamrl_open_requests {self.open}")
        lines += ["# HELP dreamrl_answers_total Answers by how many requests dreamed together."]
        lines += ["# TYPE dreamrl_answers_total counter"]
        lines += [f'dreamrl_answers_total{{batch="{size}"}} {n}' for size, n in sorted(self.batches.items())]
        lines += ["# HELP dreamrl_retries_total Requests that were asked again of another replica."]
        lines += ["# TYPE dreamrl_retries_total counter", f"dreamrl_retries_total {self.retries}"]
        return "\n".join(lines) + "\n"
