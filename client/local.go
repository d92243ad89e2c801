package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gondola"
)

// RunningFile is the file in a data directory in which a platform that was started there says where it is.
const RunningFile = "up.json"

// Running is the content of RunningFile.
type Running struct {
	API       string           `json:"api"`        // URL
	TokenFile string           `json:"token_file"` // path
	Regions   []gondola.Region `json:"regions"`
	Clusters  []RunningCluster `json:"clusters"`
}

// RunningCluster is a Kubernetes cluster of a platform.
type RunningCluster struct {
	Name       string `json:"name"`
	Kubeconfig string `json:"kubeconfig"` // path
	Server     string `json:"server"`     // URL
}

// Local says where the platform with this data directory is. It need not run at the moment.
func Local(data string) (Running, error) {
	var r Running
	b, err := os.ReadFile(filepath.Join(data, RunningFile))
	if errors.Is(err, os.ErrPermission) {
		return r, fmt.Errorf("%s cannot be read: use sudo, or pass --api and --token", data)
	}
	if err != nil {
		return r, fmt.Errorf("no platform in %s: start one with: gondola up", data)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("%s: %w", filepath.Join(data, RunningFile), err)
	}
	return r, nil
}

// Token reads the token that opens the platform.
func (r Running) Token() (string, error) {
	b, err := os.ReadFile(r.TokenFile)
	if errors.Is(err, os.ErrPermission) {
		return "", fmt.Errorf("%s cannot be read: use sudo, or pass --token", r.TokenFile)
	}
	return strings.TrimSpace(string(b)), err
}
