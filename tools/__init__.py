"""What brings the appliance to a box that no network reaches, and tries it there.

`stage` runs where there is a network: it downloads wheels and cuts them into parts that are small
enough to be carried. `install` runs on the box, with nothing but Python: it joins the parts, checks
each file, and installs them.

`release` makes what all robots get, `install_release` checks and installs it on one, and
`switch_release` lets one run it. All these import nothing of the appliance.

`gpu_check` tries engines on a GPU box, and the appliance on them; `worker_client` starts a
worker process for it, without a core.
"""
