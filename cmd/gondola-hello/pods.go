package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// accountDir is where a Pod finds its service account.
const accountDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// pods lists the Pods of a namespace by the cluster's API, with the token of the Pod's service account: pods [-n namespace].
func pods(t *tool) int {
	o, _, err := t.options("", "n")
	if err != nil {
		return t.failf(2, "%v", err)
	}
	c, err := inCluster(accountDir)
	if err != nil {
		return t.fail1(err)
	}
	namespace := c.namespace
	if o["n"] != "" {
		namespace = o["n"]
	}
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Spec     struct{ NodeName string }
			Status   struct{ Phase, PodIP string }
		}
	}
	if err := c.get("/api/v1/namespaces/"+namespace+"/pods", &list); err != nil {
		return t.fail1(err)
	}
	fmt.Fprintf(t.out, "%-40s %-10s %-16s %s\n", "NAME", "PHASE", "IP", "NODE")
	for _, p := range list.Items {
		fmt.Fprintf(t.out, "%-40s %-10s %-16s %s\n", p.Metadata.Name, p.Status.Phase, p.Status.PodIP, p.Spec.NodeName)
	}
	return 0
}

// cluster is a client of the API of the cluster that this Pod is in.
type cluster struct {
	url, token, namespace string
	client                http.Client
}

func inCluster(dir string) (*cluster, error) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" {
		return nil, errNotInCluster
	}
	if port == "" {
		port = "443"
	}
	var file [3]string
	for i, name := range []string{"token", "namespace", "ca.crt"} {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			return nil, fmt.Errorf("service account: %w", err)
		}
		file[i] = strings.TrimSpace(string(b))
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(file[2])) {
		return nil, fmt.Errorf("service account: %s/ca.crt holds no certificate", dir)
	}
	return &cluster{
		url: "https://" + net.JoinHostPort(host, port), token: file[0], namespace: file[1],
		client: http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}},
	}, nil
}

// get reads an object.
func (c *cluster) get(path string, into any) error {
	req, err := http.NewRequest(http.MethodGet, c.url+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Accept", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusOK {
		return json.NewDecoder(res.Body).Decode(into)
	}
	var status struct{ Message string }
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return err
	}
	if json.Unmarshal(body, &status) != nil || status.Message == "" {
		status.Message = string(body)
	}
	return fmt.Errorf("%s: %s", res.Status, status.Message)
}
