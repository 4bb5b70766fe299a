"""What operators look at: Grafana dashboards and Prometheus rules, as Python that prints them."""
