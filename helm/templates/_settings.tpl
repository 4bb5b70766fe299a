{{- /* Ports of the pods. */ -}}
{{- define "headgate.ports" -}}
public: 8080
admin: 9464
model: 8090
controller: 9465
valkey: 6379
{{- end -}}

{{- /* headgate.yaml: the settings, and what the chart knows better. */ -}}
{{- define "headgate.settings" -}}
{{- $settings := deepCopy .Values.settings -}}
{{- $_ := set $settings "listen" "0.0.0.0:8080" -}}
{{- $_ := set $settings "admin" "0.0.0.0:9464" -}}
{{- $_ := set $settings "drain_s" .Values.drainSeconds -}}
{{- if .Values.flagFile -}}
{{- $_ := set $settings "flags" (merge (dict "file" "flags/flags.json") (default dict $settings.flags)) -}}
{{- end -}}
{{- if $settings.llm -}}
{{- $_ := set $settings.llm "listen" "0.0.0.0:8090" -}}
{{- end -}}
{{- if .Values.valkey.enabled -}}
{{- $url := printf "redis://%s-valkey:6379" (include "headgate.fullname" .) -}}
{{- $_ := set $settings.event_log.valkey "url" $url -}}
{{- end -}}
{{- if and .Values.controller.enabled (not $settings.controller) -}}
{{- $_ := set $settings "controller" (printf "http://%s-controller:9465" (include "headgate.fullname" .)) -}}
{{- end -}}
{{- with include "headgate.caFile" . -}}
{{- $_ := set $settings "tls" (merge (dict "ca_file" .) (default dict $settings.tls)) -}}
{{- end -}}
{{- with include "headgate.wayOut" . -}}
{{- $_ := set $settings "proxy" (merge (dict) (fromYaml .) (dict "upstream" $.Values.proxy.upstream)) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- /* The block `proxy` that settings and policy have in common. */ -}}
{{- define "headgate.wayOut" -}}
{{- with .Values.proxy -}}
{{- if .url -}}
{{- $block := dict "url" .url "no_proxy" .noProxy -}}
{{- with .username }}{{ $_ := set $block "username" . }}{{ end -}}
{{- with .password }}{{ $_ := set $block "password" . }}{{ end -}}
{{- toYaml $block -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Whether a proxy is named anywhere. */ -}}
{{- define "headgate.hasProxy" -}}
{{- $named := or .Values.proxy.url (dig "proxy" "url" "" .Values.settings) (dig "proxy" "url" "" (default dict .Values.controller.policy)) -}}
{{- range .Values.extraEnv }}{{ if has (upper .name) (list "HTTPS_PROXY" "HTTP_PROXY" "ALL_PROXY") }}{{ $named = true }}{{ end }}{{ end -}}
{{- if $named }}true{{ end -}}
{{- end -}}

{{- /* rollout.yaml. */ -}}
{{- define "headgate.policy" -}}
{{- $policy := deepCopy .Values.controller.policy -}}
{{- $_ := set $policy "journal" "/var/lib/headgate/rollout.sqlite" -}}
{{- $lease := dict "namespace" .Release.Namespace "name" (printf "%s-controller" (include "headgate.fullname" .)) -}}
{{- $_ := set $policy "lease" (dict "kubernetes" $lease) -}}
{{- $_ := set $policy "listen" "0.0.0.0:9465" -}}
{{- with include "headgate.caFile" . -}}
{{- $_ := set $policy "tls" (merge (dict "ca_file" .) (default dict $policy.tls)) -}}
{{- end -}}
{{- with include "headgate.wayOut" . -}}
{{- $_ := set $policy "proxy" (fromYaml .) -}}
{{- end -}}
{{- toYaml $policy -}}
{{- end -}}

{{- /* The environment variables that a text refers to, from their Secrets. Call with (list . text). */ -}}
{{- define "headgate.env" -}}
{{- $ := index . 0 -}}
{{- $elsewhere := $.Values.envFrom -}}
{{- $given := dict -}}
{{- range $.Values.extraEnv }}{{ $_ := set $given .name true }}{{ end -}}
{{- range $reference := regexFindAll "\\$\\{[A-Za-z_][A-Za-z0-9_]*\\}" (index . 1) -1 | uniq | sortAlpha -}}
{{- $name := trimSuffix "}" (trimPrefix "${" $reference) -}}
{{- $secret := index $.Values.secrets $name -}}
{{- if and $secret (hasKey $given $name) -}}
{{- fail (printf "secrets.%s and extraEnv are both about %s: set one of them." $name $name) -}}
{{- end -}}
{{- if not (or $secret (hasKey $given $name) $elsewhere) -}}
{{- fail (printf "secrets.%s is needed: settings or policy refer to %s. Name a Secret and its key." $name $reference) -}}
{{- end }}
{{- with $secret }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef:
      name: {{ .name }}
      key: {{ .key }}
{{- end }}
{{- end -}}
{{- end -}}

{{- /* What the schema cannot say, because it is about two values at once. */ -}}
{{- define "headgate.checks" -}}
{{- $settings := .Values.settings -}}
{{- $flags := default dict $settings.flags -}}
{{- $shared := dig "valkey" dict (default dict $settings.event_log) -}}
{{- if and .Values.flagFile $flags.unleash -}}
{{- fail "flagFile and settings.flags.unleash are both set: flags come from one of them." -}}
{{- end -}}
{{- if not (or .Values.flagFile $flags.unleash) -}}
{{- fail "settings.flags.unleash is needed, or flagFile for trying out: without flags nobody streams." -}}
{{- end -}}
{{- if and (or (gt (int .Values.replicas) 1) (gt (int .Values.workers) 1) .Values.autoscaling.enabled) (not $shared) -}}
{{- fail "settings.event_log.valkey is needed for more than one replica or worker: a viewer that reconnects may come to another one." -}}
{{- end -}}
{{- if and .Values.valkey.enabled (not $shared) -}}
{{- fail "settings.event_log.valkey.key is needed for valkey.enabled, as ${NAME} of secrets." -}}
{{- end -}}
{{- $stores := or $shared.url $shared.shards -}}
{{- if and $shared (not .Values.valkey.enabled) (not $stores) -}}
{{- fail "settings.event_log.valkey.url is needed (or shards), or valkey.enabled for trying out." -}}
{{- end -}}
{{- if and .Values.valkey.enabled $stores -}}
{{- fail "settings.event_log.valkey.url (or shards) and valkey.enabled are both set: the store is one of them." -}}
{{- end -}}
{{- if $settings.llm -}}
{{- $replicas := ternary .Values.autoscaling.min .Values.replicas .Values.autoscaling.enabled -}}
{{- if .Values.modelPort.ownDeployment -}}
{{- $replicas = .Values.modelPort.replicas -}}
{{- if not $shared -}}
{{- fail "settings.event_log.valkey is needed for modelPort.ownDeployment: model calls come to other pods than their runs." -}}
{{- end -}}
{{- end -}}
{{- if and (lt (int $replicas) 2) (not .Values.modelPort.oneIsEnough) -}}
{{- fail (printf "%s is %v: with one replica of the model port, each deploy or crash of it fails model calls of all users. Give it two, or set modelPort.oneIsEnough." (ternary "modelPort.replicas" (ternary "autoscaling.min" "replicas" .Values.autoscaling.enabled) .Values.modelPort.ownDeployment) $replicas) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.max) (int .Values.autoscaling.min)) -}}
{{- fail "autoscaling.max is less than autoscaling.min." -}}
{{- end -}}
{{- if and .Values.authorities.configMap .Values.authorities.secret -}}
{{- fail "authorities.configMap and authorities.secret are both set: the file is in one of them." -}}
{{- end -}}
{{- if and (include "headgate.caFile" .) (or (dig "ca_file" "" (default dict $settings.tls)) (dig "tls" "ca_file" "" (default dict .Values.controller.policy))) -}}
{{- fail "authorities and tls.ca_file are both set: it is one file for all servers." -}}
{{- end -}}
{{- if and .Values.proxy.url (or (hasKey $settings "proxy") (hasKey (default dict .Values.controller.policy) "proxy")) -}}
{{- fail "proxy.url and settings.proxy or policy.proxy are both set: it is one proxy for both files." -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.cpu .Values.autoscaling.viewers)) -}}
{{- fail "autoscaling.cpu or autoscaling.viewers is needed: it scales by one of them, or by both." -}}
{{- end -}}
{{- with .Values.monitoring.serviceMonitor -}}
{{- if and .scrapeTimeout (gt (int (trimSuffix "s" .scrapeTimeout)) (int (trimSuffix "s" .interval))) -}}
{{- fail "monitoring.serviceMonitor.scrapeTimeout is longer than the interval." -}}
{{- end -}}
{{- end -}}
{{- range $name := list "commonLabels" "podLabels" -}}
{{- range $label, $_ := index $.Values $name -}}
{{- if has $label (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "app.kubernetes.io/managed-by" "helm.sh/chart") -}}
{{- fail (printf "%s: %s is the chart's own." $name $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $label, $_ := .Values.podLabels -}}
{{- if hasKey $.Values.commonLabels $label -}}
{{- fail (printf "commonLabels and podLabels both have %s: set it in one of them." $label) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.controller.enabled (not .Values.controller.policy) -}}
{{- fail "controller.policy is needed for controller.enabled: see docs/reference/policy.md." -}}
{{- end -}}
{{- with .Values.expose -}}
{{- if and (or .ingress.enabled .httpRoute.enabled) (eq .through "routes") (not .upstream) -}}
{{- fail "expose.upstream is needed for expose.through: routes: the Service that everything else goes to." -}}
{{- end -}}
{{- if and .httpRoute.enabled (not .httpRoute.parentRefs) -}}
{{- fail "expose.httpRoute.parentRefs is needed: the Gateway that the route is attached to." -}}
{{- end -}}
{{- end -}}
{{- end -}}
