"""A Jetson's GPU, from a tree of files laid out as the kernel of an Orin does it."""

from __future__ import annotations

from pathlib import Path

import pytest
from attrs import define
from support.fake_driver import FakeDriver, needs_stand_ins, read

from appliance.health.jetson import JetsonGpu

ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    "proc/meminfo": "MemTotal:  32000000 kB\nMemFree: 1 kB\nMemAvailable:  24000000 kB\n",
    "var/lib/nvpmodel/status": "pmode:0002",
    "sys/class/devfreq/bwmgr/cur_freq": "2133000000",
    "sys/class/devfreq/17000000.gpu/cur_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
    "sys/class/devfreq/17000000.gpu/available_frequencies": "306000000 918000000 1300500000",
    "sys/class/devfreq/17000000.gpu/device/load": "735",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
    "sys/class/thermal/thermal_zone0/temp": "91000",
    "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
    "sys/class/thermal/thermal_zone1/temp": "67531",
    "sys/class/thermal/thermal_zone1/trip_point_0_type": "critical",
    "sys/class/thermal/thermal_zone1/trip_point_0_temp": "104500",
    "sys/class/thermal/thermal_zone1/trip_point_1_type": "passive",
    "sys/class/thermal/thermal_zone1/trip_point_1_temp": "99000",
    "sys/class/thermal/cooling_device0/type": "pwm-fan",
    "sys/class/thermal/cooling_device0/cur_state": "3",
    "sys/class/thermal/cooling_device1/type": "cpu-throttle-alert",
    "sys/class/thermal/cooling_device1/cur_state": "1",
    "sys/class/thermal/cooling_device2/type": "gpu-throttle-alert",
    "sys/class/thermal/cooling_device2/cur_state": "0",
    "sys/class/thermal/cooling_device3/type": "devfreq-17000000.gpu",
    "sys/class/thermal/cooling_device3/cur_state": "0",
    "sys/class/hwmon/hwmon1/name": "ina3221",
    "sys/class/hwmon/hwmon1/in1_label": "VDD_GPU_SOC",
    "sys/class/hwmon/hwmon1/in1_input": "19920",
    "sys/class/hwmon/hwmon1/curr1_input": "500",
    "sys/class/hwmon/hwmon1/in2_label": "VDD_CPU_CV",
    "sys/class/hwmon/hwmon1/in2_input": "20000",
    "sys/class/hwmon/hwmon1/curr2_input": "250",
    "sys/class/hwmon/hwmon1/in7_label": "sum of shunt voltages",
    "sys/class/hwmon/hwmon1/in7_input": "3",
    "sys/class/hwmon/hwmon3/name": "soctherm_oc",
    "sys/class/hwmon/hwmon3/oc1_event_cnt": "4",
    "sys/class/hwmon/hwmon3/oc1_throt_en": "1",
    "sys/class/hwmon/hwmon3/oc3_event_cnt": "9",
    "sys/class/hwmon/hwmon3/oc3_throt_en": "0",
}
GPU = "sys/class/devfreq/17000000.gpu"
THERMAL = "sys/class/thermal"


@define
class Board:
    """The tree of files, and the GPU found in it."""

    root: Path

    def write(self, path: str, text: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text if text.endswith("\0") else f"{text}\n")

    def gpu(self) -> JetsonGpu:
        found = JetsonGpu.find("cuda:0", self.root)
        assert found is not None
        return found


@pytest.fixture
def orin(tmp_path: Path) -> Board:
    board = Board(tmp_path / "root")
    for path, text in ORIN.items():
        board.write(path, text)
    return board


def test_an_orin_that_is_well(orin: Board) -> None:
    found = orin.gpu().read()
    assert (found.source, found.name) == ("sysfs", "NVIDIA Jetson AGX Orin Developer Kit")
    assert (found.is_idle, found.holds, found.utilisation_percent) == (False, (), 73.5)
    assert (found.clock_mhz, found.max_clock_mhz) == (918.0, 1300.5)
    assert (found.temperature_c, found.slow_from_c) == (67.531, 99.0)
    assert found.memory_total_bytes == 32_000_000 * 1024
    assert found.memory_used_bytes == 8_000_000 * 1024
    assert found.power_w == pytest.approx(19.92 * 0.5 + 20 * 0.25)
    assert found.power_mode == 2
    assert (found.ecc_uncorrected, found.xids) == (None, None)


def test_the_rail_that_has_the_others_behind_it_is_the_power(orin: Board) -> None:
    for name, text in (("in3_label", "VDD_IN"), ("in3_input", "5000"), ("curr3_input", "3000")):
        orin.write(f"sys/class/hwmon/hwmon1/{name}", text)
    assert orin.gpu().read().power_w == pytest.approx(15.0)


@pytest.mark.parametrize("device", ["cooling_device2", "cooling_device3"])
def test_heat_holds_its_clock_down(orin: Board, device: str) -> None:
    orin.write(f"{THERMAL}/{device}/cur_state", "1")
    assert orin.gpu().read().holds == ("thermal",)


def test_too_much_current_does_while_it_is_counted(orin: Board) -> None:
    gpu = orin.gpu()
    assert gpu.read().holds == ()
    orin.write("sys/class/hwmon/hwmon3/oc3_event_cnt", "12")  # that one throttles nothing
    assert gpu.read().holds == ()
    orin.write("sys/class/hwmon/hwmon3/oc1_event_cnt", "5")
    assert gpu.read().holds == ("power",)
    assert gpu.read().holds == ()


def test_sensors_that_are_off_say_nothing(orin: Board) -> None:
    orin.write(f"{THERMAL}/thermal_zone1/temp", "-256000")
    (orin.root / GPU / "device/load").unlink()
    (orin.root / GPU / "cur_freq").write_text("")
    found = orin.gpu().read()
    assert (found.temperature_c, found.utilisation_percent, found.clock_mhz) == (None, None, None)
    assert found.is_idle


@pytest.mark.parametrize("name", ["17000000.ga10b", "17000000.gv11b", "gpu-gpc-0"])
def test_other_boards_have_other_names(tmp_path: Path, name: str) -> None:
    board = Board(tmp_path)
    board.write(f"sys/class/devfreq/{name}/cur_freq", "500000000")
    board.write(f"sys/class/devfreq/{name}/max_freq", "900000000")
    found = board.gpu().read()
    assert (found.clock_mhz, found.max_clock_mhz) == (500.0, 900.0)
    assert (found.power_w, found.power_mode, found.memory_total_bytes) == (None, None, None)


def test_a_box_without_such_a_gpu_is_no_jetson(tmp_path: Path) -> None:
    Board(tmp_path).write("sys/class/devfreq/bwmgr/cur_freq", "1")
    assert JetsonGpu.find("cuda:0", tmp_path) is None


@needs_stand_ins
def test_the_reader_takes_sysfs_for_an_integrated_gpu_only(driver: FakeDriver, orin: Board) -> None:
    [integrated] = read(driver, root=orin.root, FAKE_CUDA_INTEGRATED="1")
    assert (integrated.source, integrated.temperature_c) == ("sysfs", 67.531)
    [card] = read(driver, root=orin.root)
    assert (card.source, card.temperature_c) == ("nvml", 61.0)
    [unknown] = read(driver, FAKE_CUDA_INTEGRATED="1")
    assert unknown.source == "nvml"
