"""The pages and rules of operators: Grafana dashboards and Prometheus rules, as Python that prints them."""
