{{- /* Where pods go and how they find others, as the values say. */ -}}
{{- define "headgate.placement" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ . }}
{{- end }}
{{- if .Values.shareProcessNamespace }}
shareProcessNamespace: true
{{- end }}
{{- if not (kindIs "invalid" .Values.hostUsers) }}
hostUsers: {{ .Values.hostUsers }}
{{- end }}
{{- range $name := list "hostAliases" "dnsConfig" "nodeSelector" "tolerations" "affinity" }}
{{- with index $.Values $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Environment of Headgate's containers: the secrets that a text refers to, and the values' own. Call with (list . text). */ -}}
{{- define "headgate.environment" -}}
{{- $ := index . 0 -}}
{{- $env := include "headgate.env" . | trim -}}
{{- if or $env $.Values.extraEnv }}
env:
  {{- with $env }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with $.Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with $.Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- /* Where the authorities of `authorities` are; empty: nowhere. */ -}}
{{- define "headgate.caFile" -}}
{{- with .Values.authorities -}}
{{- if or .configMap .secret -}}
/etc/headgate-authorities/{{ .key }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "headgate.caMount" -}}
{{- if include "headgate.caFile" . }}
- {name: authorities, mountPath: /etc/headgate-authorities, readOnly: true}
{{- end }}
{{- end -}}

{{- define "headgate.caVolume" -}}
{{- if include "headgate.caFile" . }}
{{- with .Values.authorities }}
- name: authorities
  {{- if .configMap }}
  configMap:
    name: {{ .configMap }}
  {{- else }}
  secret:
    secretName: {{ .secret }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* Labels and annotations of a pod of Headgate. Call with (list . component checksum-name checksum). */ -}}
{{- define "headgate.podMeta" -}}
{{- $ := index . 0 -}}
labels:
  {{- include "headgate.labels" (list $ (index . 1)) | nindent 2 }}
  {{- with $.Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/{{ index . 2 }}: {{ index . 3 | sha256sum }}
  {{- with $.Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* An account of a Deployment. Call with (list . component name block). */ -}}
{{- define "headgate.account" -}}
{{- $ := index . 0 -}}
{{- $component := index . 1 -}}
{{- $name := index . 2 -}}
{{- with index . 3 }}
{{- if .create }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ default $name .name }}
  labels:
    {{- include "headgate.labels" (list $ $component) | nindent 4 }}
  {{- with .annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
automountServiceAccountToken: false
{{- end }}
{{- end }}
{{- end -}}

{{- /* Its name. Call with (list name block). */ -}}
{{- define "headgate.accountName" -}}
{{- $block := index . 1 -}}
{{- default (ternary (index . 0) "default" $block.create) $block.name -}}
{{- end -}}
